"""The project's own registry, filled by the decorators in ``workflows.py`` modules."""

from __future__ import annotations

from duroxide_django.engine.registry import Registry

default_registry = Registry()

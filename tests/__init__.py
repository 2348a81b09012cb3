"""Tests of duroxide_django."""

"""No pages: these processes only work."""

urlpatterns: list[object] = []

"""Addresses of the shop."""

from django.urls import path

from .views import chat, desk, orders

app_name = "shop"

urlpatterns = [
    path("", orders.shelf, name="shelf"),
    path("orders/", orders.place_order, name="place-order"),
    path("orders/<str:code>/", orders.show_order, name="order"),
    path("orders/<str:code>/progress.json", orders.order_progress, name="order-progress"),
    path("orders/<str:code>/cancel/", orders.cancel_order, name="cancel-order"),
    path("chat/", chat.begin, name="chat"),
    path("chat/<str:code>/", chat.conversation, name="conversation"),
    path("chat/<str:code>/messages.json", chat.messages, name="conversation-messages"),
    path("desk/", desk.overview, name="desk"),
    path("desk/orders/<str:code>/decision/", desk.decide, name="decide"),
    path("desk/reports/", desk.reports, name="reports"),
]

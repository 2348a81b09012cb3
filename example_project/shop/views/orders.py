"""Pages about ordering: the shelf, and what becomes of an order."""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from duroxide_django import Client, InstanceNotFound
from example_project.shop import conf, progress
from example_project.shop.forms import OrderForm
from example_project.shop.models import Order


@require_safe
@never_cache
def shelf(request: HttpRequest) -> HttpResponse:
    """Show what there is to buy, with the order form."""
    return _shelf(request, OrderForm())


@require_POST
def place_order(request: HttpRequest) -> HttpResponse:
    """Write an order down and start the workflow that carries it out: both or neither."""
    form = OrderForm(request.POST)
    if not form.is_valid():
        return _shelf(request, form, status=422)
    with transaction.atomic():
        order = form.save()
        Client().start_orchestration(order.instance_id, "Checkout", order.workflow_input())
    return redirect(order)


@require_safe
@never_cache
def show_order(request: HttpRequest, code: str) -> HttpResponse:
    """Show an order and how far it has come."""
    state = progress.of_order(_order(code))
    return render(request, "shop/order.html", {"order": state.order, "progress": state})


@require_safe
@never_cache
def order_progress(request: HttpRequest, code: str) -> HttpResponse:
    """Return what the order page shows, for the script that keeps it up to date."""
    state = progress.of_order(_order(code))
    html = render_to_string("shop/_progress.html", {"order": state.order, "progress": state}, request)
    return JsonResponse(
        {
            "version": state.version,
            "finished": state.finished,
            "headline": state.headline,
            "status": state.order.status,
            "workflow_status": state.workflow_status,
            "custom_status": state.custom_status,
            "html": html,
        }
    )


@require_POST
def cancel_order(request: HttpRequest, code: str) -> HttpResponse:
    """Stop an order unless its parcel has left, and let its workflow take it back: both or neither."""
    order = _order(code)
    try:
        with transaction.atomic():
            # Locked: either the courier gets the parcel first, or the cancellation comes first; never both.
            locked = Order.objects.select_for_update().get(pk=order.pk)
            cancelled = locked.can_be_stopped and locked.stop()
            if cancelled:
                Client().cancel_instance(order.instance_id, "Cancelled by the customer.")
    except InstanceNotFound:  # Somebody has deleted the workflow.
        cancelled = False
    if not cancelled:
        messages.warning(request, "This order can't be cancelled any more.")
    return redirect(order)


def _order(code: str) -> Order:
    return get_object_or_404(Order.objects.prefetch_related("lines__product"), code=code)


def _shelf(request: HttpRequest, form: OrderForm, status: int = 200) -> HttpResponse:
    context = {"form": form, "approval_limit": conf.approval_limit()}
    return render(request, "shop/shelf.html", context, status=status)

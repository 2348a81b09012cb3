"""Pages for the people at the desk: orders that wait for a decision, and the sales reports."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import permission_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from duroxide_django import Client, InstanceNotFound
from example_project.shop import progress
from example_project.shop.models import Order, SalesReport
from example_project.shop.workflows import APPROVAL_EVENT, REPORT_INSTANCE, REPORT_NOW_EVENT

#: Length of the lists.
ROWS = 20


@require_safe
@never_cache
@staff_member_required
def overview(request: HttpRequest) -> HttpResponse:
    """Show the orders that wait for a decision, and the latest of all."""
    waiting = Order.objects.waiting_for_approval().order_by("created_at")[:ROWS]
    return render(request, "shop/desk.html", {"waiting": waiting, "latest": Order.objects.all()[:ROWS]})


@require_POST
@staff_member_required
@permission_required("shop.approve_order", raise_exception=True)
def decide(request: HttpRequest, code: str) -> HttpResponse:
    """Tell an order's workflow that somebody approved or rejected the order."""
    order = get_object_or_404(Order, code=code)
    decision = {"approved": request.POST.get("decision") == "approve", "by": request.user.get_username()}
    in_time = progress.of_order(order).waits_for_approval
    if not in_time or not Client().raise_event(order.instance_id, APPROVAL_EVENT, decision):
        messages.warning(request, "This order does not wait for a decision any more.")
    return redirect(order)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@staff_member_required
def reports(request: HttpRequest) -> HttpResponse:
    """Show the sales reports; a POST asks for today's."""
    client = Client()
    if request.method == "POST":
        if _ask_for_report(client):
            messages.info(request, "The report of today is being written.")
        else:
            messages.warning(request, "Nobody writes reports at the moment.")
        return redirect("shop:reports")
    plan = client.get_status(REPORT_INSTANCE)
    return render(request, "shop/reports.html", {"reports": SalesReport.objects.all()[:ROWS], "plan": plan})


def _ask_for_report(client: Client) -> bool:
    """Ask for today's report; False if its workflow has ended, or was never started."""
    try:
        return client.raise_event(REPORT_INSTANCE, REPORT_NOW_EVENT)
    except InstanceNotFound:
        return False

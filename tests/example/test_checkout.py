from unittest import mock

import pytest
from django.db import transaction

from example_project.shop import gateway
from example_project.shop.exceptions import CardDeclined
from example_project.shop.models import Card, Order, Payment, Shipment
from tests.example.cases import APPROVAL_MINUTES, MINUTE_MS, PICKUP_SECONDS, ShopTestCase

Status = Order.Status


class CheckoutTestCase(ShopTestCase):
    def assert_ended(self, order, status, *, workflow="Completed"):
        order.refresh_from_db()
        assert order.status == status, order.note
        result = self.workflows.get_status(order.instance_id)
        assert result.status == workflow, result.error
        if workflow == "Completed":
            assert result.output == {"outcome": status, "note": order.note}

    def assert_taken_back(self, order, payment):
        assert not order.stock_taken
        assert self.stock("earl-grey") == 60
        assert self.stock("samovar") == 2
        assert Payment.objects.get(order=order).status == payment


class TestOrder(CheckoutTestCase):
    def test_is_paid_packed_and_shipped(self):
        order = self.place_order(earl_grey=2, teapot=1)

        self.work_to_the_end()

        self.assert_ended(order, Status.SHIPPED)
        assert (self.stock("earl-grey"), self.stock("teapot")) == (58, 7)
        assert order.payment.status == Payment.Status.CHARGED
        assert order.payment.amount == order.total
        assert order.shipment.handed_over_at is not None

    def test_shows_each_step_as_custom_status(self):
        order = self.place_order()
        self.work_to_the_end()

        events = self.workflows.read_execution_history(order.instance_id, 1)

        shown = [event for event in events if event.kind == "CustomStatusUpdated"]
        assert len(shown) == 4
        assert self.custom_status(order) == "On its way to you"

    def test_waits_for_the_courier_in_the_shipping_workflow(self):
        order = self.place_order()
        self.work()
        assert "waits for the courier" in self.workflows.get_status(order.shipping_instance_id).custom_status

        self.clock.advance(ms=PICKUP_SECONDS * 1000)
        self.work()

        assert "has left" in self.workflows.get_status(order.shipping_instance_id).custom_status
        self.assert_ended(order, Status.SHIPPED)

    def test_leaves_no_trace_if_its_transaction_rolls_back(self):
        with transaction.atomic():
            order = self.place_order()
            transaction.set_rollback(True)

        self.work_to_the_end()

        assert not Order.objects.exists()
        assert self.workflows.get_status(order.instance_id).status == "NotFound"

    def test_of_more_than_there_is_takes_nothing(self):
        order = self.place_order(earl_grey=1, sencha=26)

        self.work_to_the_end()

        self.assert_ended(order, Status.OUT_OF_STOCK)
        assert "Sencha Uji" in order.note
        assert (self.stock("earl-grey"), self.stock("sencha")) == (60, 25)
        assert not Payment.objects.exists()

    def test_with_an_error_nobody_foresaw_is_taken_back_and_fails_visibly(self):
        order = self.place_order()
        with mock.patch.object(gateway, "charge", side_effect=RuntimeError("the wire was cut")):
            self.work_to_the_end()

        self.assert_ended(order, Status.FAILED, workflow="Failed")
        assert "the wire was cut" in self.workflows.get_status(order.instance_id).error
        self.assert_taken_back(order, Payment.Status.VOID)


class TestCharge(CheckoutTestCase):
    def test_is_tried_again_when_the_payment_company_is_silent(self):
        order = self.place_order(Card.STUMBLES)

        self.work_to_the_end()

        self.assert_ended(order, Status.SHIPPED)
        assert [str(attempt) for attempt in order.charge_attempts.all()] == [
            "The payment company did not answer.",
            "charged",
        ]

    def test_that_fails_three_times_puts_the_goods_back(self):
        order = self.place_order(Card.SILENT)

        self.work_to_the_end()

        self.assert_ended(order, Status.UNPAID)
        assert order.note == "The payment company did not answer."
        assert order.charge_attempts.count() == 3
        self.assert_taken_back(order, Payment.Status.VOID)

    def test_that_is_declined_is_not_tried_again(self):
        order = self.place_order(Card.DECLINED)

        self.work_to_the_end()

        self.assert_ended(order, Status.UNPAID)
        assert order.charge_attempts.count() == 1
        self.assert_taken_back(order, Payment.Status.VOID)


class TestApproval(CheckoutTestCase):
    def test_is_not_asked_for_below_the_limit(self):
        assert not self.place_order(teapot=2).needs_approval

    def test_lets_the_order_go_on(self):
        order = self.place_large_order()

        self.decide(order, "approve")
        self.work_to_the_end()

        self.assert_ended(order, Status.SHIPPED)

    def test_rejected_gives_goods_and_money_back(self):
        order = self.place_large_order()

        self.decide(order, "reject")
        self.work_to_the_end()

        self.assert_ended(order, Status.REJECTED)
        assert order.note == "Rejected by grace."
        self.assert_taken_back(order, Payment.Status.REFUNDED)

    def test_that_never_comes_gives_goods_and_money_back(self):
        order = self.place_large_order()

        self.clock.advance(ms=APPROVAL_MINUTES * MINUTE_MS - 1)
        self.work()
        order.refresh_from_db()
        assert order.status == Status.PLACED
        self.clock.advance(ms=1)
        self.work()

        self.assert_ended(order, Status.EXPIRED)
        self.assert_taken_back(order, Payment.Status.REFUNDED)


class TestCancellation(CheckoutTestCase):
    def cancel(self, order):
        return self.client.post(f"/orders/{order.code}/cancel/", follow=True)

    def assert_cancelled(self, order):
        self.assert_ended(order, Status.CANCELLED, workflow="Failed")
        result = self.workflows.get_status(order.instance_id)
        assert result.is_cancelled
        assert result.error == "canceled: Cancelled by the customer."

    def test_before_the_first_step_leaves_everything_as_it_was(self):
        order = self.place_order()

        self.cancel(order)
        self.work_to_the_end()

        self.assert_cancelled(order)
        assert self.stock("earl-grey") == 60
        assert order.charge_attempts.count() == 0

    def test_while_waiting_for_approval_gives_goods_and_money_back(self):
        order = self.place_large_order()

        self.cancel(order)
        self.work_to_the_end()

        self.assert_cancelled(order)
        self.assert_taken_back(order, Payment.Status.REFUNDED)

    def test_while_the_parcel_waits_unpacks_it(self):
        order = self.place_order()
        self.work()

        self.cancel(order)
        self.work_to_the_end()

        self.assert_cancelled(order)
        self.assert_taken_back(order, Payment.Status.REFUNDED)
        parcel = Shipment.objects.get(order=order)
        assert (parcel.handed_over_at, parcel.recalled_at is not None) == (None, True)

    def test_while_the_order_is_taken_back_does_not_stop_that(self):
        order = self.place_order(Card.DECLINED)
        with mock.patch.object(gateway, "call_off", side_effect=RuntimeError("busy")):
            self.work()
        assert self.custom_status(order) == "Taking the order back"

        self.workflows.cancel_instance(order.instance_id, "Cancelled by the customer.")
        self.work_to_the_end()

        self.assert_cancelled(order)
        self.assert_taken_back(order, Payment.Status.VOID)

    def test_after_the_courier_came_is_refused(self):
        order = self.place_order()
        self.work_to_the_end()

        response = self.cancel(order)

        assert "can&#x27;t be cancelled any more" in response.content.decode()
        self.assert_ended(order, Status.SHIPPED)

    def test_of_the_workflow_alone_can_not_take_a_shipped_parcel_back(self):
        order = self.place_order()
        self.work()
        Order.objects.filter(pk=order.pk).update(status=Status.SHIPPED)  # The courier came this very moment.

        self.workflows.cancel_instance(order.instance_id, "too late")
        self.work_to_the_end()

        order.refresh_from_db()
        assert (order.status, order.stock_taken) == (Status.SHIPPED, True)
        assert order.payment.status == Payment.Status.CHARGED


class TestPaymentCompany(ShopTestCase):
    def test_takes_the_money_once_however_often_it_is_asked(self):
        order = self.place_order()

        gateway.charge(order)
        gateway.charge(order)

        assert Payment.objects.get(order=order).status == Payment.Status.CHARGED

    def test_takes_no_money_after_the_payment_was_called_off(self):
        order = self.place_order()
        gateway.call_off(order)

        with pytest.raises(CardDeclined):
            gateway.charge(order)

        assert Payment.objects.get(order=order).status == Payment.Status.VOID

    def test_gives_the_money_back_once(self):
        order = self.place_order()
        gateway.charge(order)

        gateway.call_off(order)
        gateway.call_off(order)

        assert Payment.objects.get(order=order).status == Payment.Status.REFUNDED

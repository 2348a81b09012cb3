import re
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.test import Client

from duroxide_django import Client as WorkflowClient
from example_project.shop.models import Conversation, Order
from tests.example.cases import ShopTestCase


class TestShelf(ShopTestCase):
    def test_shows_all_goods_with_price_and_stock(self):
        page = self.client.get("/").content.decode()

        for text in ("Earl Grey", "7.90 €", "60 left", "Brass samovar"):
            assert text in page

    def test_refuses_an_order_of_nothing(self):
        response = self.client.post("/orders/", self.order_form(earl_grey=0))

        assert response.status_code == 422
        assert "Choose at least one thing" in response.content.decode()
        assert not Order.objects.exists()

    def test_says_everything_that_is_missing_at_once(self):
        page = self.client.post("/orders/", {"card": "good"}).content.decode()

        assert "Choose at least one thing" in page
        assert "Your name</a> This field is required" in page

    def test_refuses_an_order_without_a_customer_and_keeps_what_was_filled_in(self):
        response = self.client.post("/orders/", {**self.order_form(earl_grey=3), "customer": ""})

        assert response.status_code == 422
        assert 'value="3"' in response.content.decode()

    def test_refuses_absurd_quantities(self):
        for quantity in (-1, 100, "many"):
            assert self.client.post("/orders/", self.order_form(earl_grey=quantity)).status_code == 422

    def test_keeps_neither_order_nor_workflow_if_the_workflow_can_not_start(self):
        with (
            mock.patch.object(WorkflowClient, "start_orchestration", side_effect=RuntimeError),
            pytest.raises(RuntimeError),
        ):
            self.client.post("/orders/", self.order_form())

        assert not Order.objects.exists()


class TestIcon(ShopTestCase):
    def test_is_where_browsers_look_for_it(self):
        response = self.client.get("/favicon.ico")

        assert (response.status_code, response.url) == (302, "/static/shop/leaf.svg")


class TestOrderPage(ShopTestCase):
    def state(self, order):
        return self.client.get(f"{order.get_absolute_url()}progress.json").json()

    def test_is_where_an_order_leads(self):
        response = self.client.post("/orders/", self.order_form(), follow=True)

        page = response.content.decode()
        assert response.status_code == 200
        assert "Waiting for a worker" in page
        assert '<noscript><meta http-equiv="refresh"' in page

    def test_leads_those_who_may_see_it_to_the_workflow(self):
        order = self.place_order()
        assert "/admin/" not in self.client.get(order.get_absolute_url()).content.decode().partition("<main")[2]

        User.objects.create_superuser("boss")
        self.client.force_login(User.objects.get(username="boss"))
        page = self.client.get(order.get_absolute_url()).content.decode()
        address = f"/admin/duroxide_django/instance/?q={order.instance_id}"
        assert address in page
        assert f"{order.instance_id}-shipping" not in page
        assert order.instance_id in self.client.get(address).content.decode()

    def test_shows_the_custom_status_live(self):
        order = self.place_order()
        before = self.state(order)
        self.work()

        state = self.state(order)

        assert state["custom_status"] == "Getting your parcel out of the house"
        assert state["headline"] == state["custom_status"]
        assert re.search("Charging your card.*waits for the courier", state["html"], re.DOTALL)
        assert state["version"] != before["version"]
        assert not state["finished"]

    def test_of_a_finished_order_tells_the_outcome_and_reloads_no_more(self):
        order = self.place_order("declined")
        self.work_to_the_end()

        state = self.state(order)
        page = self.client.get(order.get_absolute_url()).content.decode()

        assert (state["finished"], state["status"], state["workflow_status"]) == (True, "unpaid", "Completed")
        assert "The bank declined the card." in page
        assert "http-equiv" not in page
        assert "Cancel this order" not in page

    def test_asks_customers_nothing_but_whether_to_cancel(self):
        order = self.place_large_order()

        page = self.client.get(order.get_absolute_url()).content.decode()

        assert "Cancel this order" in page
        assert "Approve</button>" not in page

    def test_asks_people_at_the_desk_for_a_decision(self):
        order = self.place_large_order()
        self.client.force_login(self.clerk())

        page = self.client.get(order.get_absolute_url()).content.decode()

        assert "Approve</button>" in page
        assert "Reject</button>" in page

    def test_outlives_the_workflow(self):
        order = self.place_order()
        self.work_to_the_end()
        self.workflows.delete_instance(order.instance_id)

        state = self.state(order)
        assert (state["finished"], state["headline"]) == (True, "Shipped")

    def test_of_an_order_whose_workflow_was_deleted_offers_nothing(self):
        order = self.place_large_order()
        self.workflows.delete_instance(order.instance_id, force=True)

        assert "<form" not in self.state(order)["html"]
        page = self.client.post(f"{order.get_absolute_url()}cancel/", follow=True).content.decode()
        assert "be cancelled any more" in page
        order.refresh_from_db()
        assert order.stopped_at is None

    def test_of_an_unknown_order_does_not_exist(self):
        assert self.client.get("/orders/NOSUCHCODE/").status_code == 404
        assert self.client.get("/orders/NOSUCHCODE/progress.json").status_code == 404
        assert self.client.post("/orders/NOSUCHCODE/cancel/").status_code == 404


class TestDesk(ShopTestCase):
    def test_is_for_staff_only(self):
        for path in ("/desk/", "/desk/reports/"):
            assert "/admin/login/" in self.client.get(path)["Location"]

    def test_lists_what_waits_for_a_decision(self):
        order = self.place_large_order()
        self.client.force_login(self.clerk())

        page = self.client.get("/desk/").content.decode()

        assert page.index("Waiting for a decision") < page.index(order.code) < page.index("Latest orders")

    def test_decides_only_with_permission(self):
        order = self.place_large_order()
        path = f"/desk/orders/{order.code}/decision/"
        assert "/admin/login/" in self.client.post(path, {"decision": "approve"})["Location"]
        self.client.force_login(User.objects.create(username="trainee", is_staff=True))
        assert self.client.post(path, {"decision": "approve"}).status_code == 403

        self.work()

        assert self.custom_status(order) == "Waiting for our approval"

    def test_can_not_decide_before_or_after_its_time(self):
        early, late = self.place_order(samovar=1), self.place_order()
        self.work_to_the_end()
        self.client.force_login(self.clerk())

        for order in (early, late):
            response = self.client.post(f"/desk/orders/{order.code}/decision/", follow=True)
            assert "does not wait for a decision" in response.content.decode()


class TestEveryPage(ShopTestCase):
    def test_refuses_posts_without_a_csrf_token(self):
        order, conversation = self.place_large_order(), Conversation.objects.create()
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(self.clerk())
        paths = [
            "/orders/",
            f"/orders/{order.code}/cancel/",
            "/chat/",
            f"/chat/{conversation.code}/",
            f"/desk/orders/{order.code}/decision/",
            "/desk/reports/",
        ]

        answers = {path: strict.post(path).status_code for path in paths}

        assert answers == dict.fromkeys(paths, 403)

    def test_changes_nothing_on_get(self):
        order = self.place_large_order()
        self.client.force_login(self.clerk())

        for path in ("/orders/", f"/orders/{order.code}/cancel/", f"/desk/orders/{order.code}/decision/"):
            assert self.client.get(path).status_code == 405

    def test_asks_nobody_else_for_anything(self):
        order = self.place_order()
        self.client.force_login(self.clerk())

        for path in ("/", order.get_absolute_url(), "/chat/", "/desk/", "/desk/reports/"):
            page = self.client.get(path).content.decode()
            assert "//" not in page.replace("://127.0.0.1", ""), path

    def test_of_the_shop_in_the_admin_opens(self):
        order = self.place_order()
        self.work_to_the_end()
        self.client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))

        for page in ("product", "order", "salesreport", "conversation", f"order/{order.pk}/change"):
            assert self.client.get(f"/admin/shop/{page}/").status_code == 200

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from example_project.shop.models import Product
from example_project.shop.workflows import REPORT_INSTANCE
from tests.example.cases import ShopTestCase


class TestSeedShop(ShopTestCase):
    def test_may_be_run_again(self):
        Product.objects.all().delete()
        for _run in range(2):
            call_command("seed_shop", verbosity=0)

        assert Product.objects.count() == 6
        assert self.workflows.list_all_instances() == [REPORT_INSTANCE]

    def test_starts_the_nightly_report_again_once_it_has_ended(self):
        call_command("seed_shop", verbosity=0)
        self.workflows.cancel_instance(REPORT_INSTANCE, "By mistake.")
        self.work()
        assert self.workflows.get_status(REPORT_INSTANCE).status == "Failed"

        call_command("seed_shop", verbosity=0)

        self.work()
        assert self.workflows.get_status(REPORT_INSTANCE).status == "Running"

    def test_fills_the_shelf_up_and_changes_nothing_else(self):
        Product.objects.filter(sku="sencha").update(stock=0, price=15)
        Product.objects.filter(sku="cups").update(stock=500)

        call_command("seed_shop", verbosity=0)

        sencha = Product.objects.get(sku="sencha")
        assert (sencha.stock, sencha.price) == (25, 15)
        assert self.stock("cups") == 500

    def test_creates_a_well_known_user_only_where_it_does_no_harm(self):
        arguments = {"demo_user": "demo", "demo_password": "tea", "verbosity": 0}
        with pytest.raises(CommandError, match="DEBUG"):
            call_command("seed_shop", **arguments)
        assert not User.objects.exists()

        with self.settings(DEBUG=True):
            call_command("seed_shop", **arguments)

        assert User.objects.get().check_password("tea")

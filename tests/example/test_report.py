import datetime as dt

from django.core.management import call_command

from example_project.shop.models import Order, SalesReport
from example_project.shop.workflows import DAY_MS, REPORT_INSTANCE, next_run
from tests.example.cases import ShopTestCase

HOUR_MS = 60 * 60 * 1000


class TestNextRun(ShopTestCase):
    def test_is_today_if_the_hour_is_still_to_come(self):
        assert next_run(10 * DAY_MS + HOUR_MS, 2) == 10 * DAY_MS + 2 * HOUR_MS

    def test_is_tomorrow_if_the_hour_has_come(self):
        assert next_run(10 * DAY_MS + 2 * HOUR_MS, 2) == 11 * DAY_MS + 2 * HOUR_MS


class TestNightlyReport(ShopTestCase):
    def setUp(self):
        super().setUp()
        call_command("seed_shop", verbosity=0)
        self.work()

    def test_says_when_it_comes_next(self):
        status = self.workflows.get_status(REPORT_INSTANCE)

        assert status.status == "Running"
        assert status.custom_status.startswith("Next report at ")
        assert status.custom_status.endswith(" 02:00 UTC")

    def test_is_written_every_night_for_the_day_before(self):
        first_night = dt.datetime.fromisoformat(self.workflows.get_status(REPORT_INSTANCE).custom_status[15:31])

        for _night in range(3):
            self.clock.advance(ms=DAY_MS)
            self.work()

        days = list(SalesReport.objects.values_list("day", flat=True))
        assert days == [first_night.date() + dt.timedelta(days=night - 1) for night in (2, 1, 0)]
        assert len(self.workflows.list_executions(REPORT_INSTANCE)) == 4

    def test_is_written_at_once_when_somebody_asks(self):
        self.place_order()
        self.place_order(earl_grey=61)
        self.work()
        self.clock.advance(ms=60_000)
        self.work()
        self.client.force_login(self.clerk())

        self.client.post("/desk/reports/")
        self.work()

        report = SalesReport.objects.get()
        assert (report.orders, report.shipped, str(report.revenue)) == (2, 1, "15.80")
        assert "15.80 €" in self.client.get("/desk/reports/").content.decode()

    def test_can_not_be_asked_for_when_nobody_writes_it(self):
        self.client.force_login(self.clerk())
        self.workflows.cancel_instance(REPORT_INSTANCE, "By mistake.")
        self.work()
        page = self.client.post("/desk/reports/", follow=True).content.decode()
        assert "Nobody writes reports at the moment" in page
        assert "The nightly report is not running" in page

        self.workflows.delete_instance(REPORT_INSTANCE)
        page = self.client.post("/desk/reports/", follow=True).content.decode()
        assert "Nobody writes reports at the moment" in page

    def test_replaces_an_earlier_one_of_the_same_day(self):
        today = Order(total=0).created_at.date()
        SalesReport.write(today)
        self.place_order()

        report = SalesReport.write(today)

        assert SalesReport.objects.get() == report
        assert report.orders == 1

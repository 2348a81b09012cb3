from django.db import models


class Entry(models.Model):
    """What an activity wrote: one row each time that it ran and its transaction was committed."""

    instance_id = models.CharField(max_length=100)
    step = models.CharField(max_length=100)
    atomic = models.BooleanField()

    class Meta:
        app_label = "work"
        db_table = "chaos_entry"

    def __str__(self):
        return f"{self.instance_id} {self.step}"


class Tally(models.Model):
    """A number that atomic activities raise in place: one run too many, or one too few, and it is wrong."""

    name = models.CharField(max_length=100)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "work"
        db_table = "chaos_tally"

    def __str__(self):
        return f"{self.name} {self.value}"

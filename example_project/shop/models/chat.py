"""Conversations of customers with the shop."""

from __future__ import annotations

from django.db import models
from django.urls import reverse
from django.utils import timezone

from .codes import new_code


class Conversation(models.Model):
    """A chat; a workflow reads its mailbox and answers."""

    code = models.CharField(max_length=20, unique=True, default=new_code, editable=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return f"Conversation {self.code}"

    def get_absolute_url(self) -> str:
        """Return the address of the conversation's page."""
        return reverse("shop:conversation", args=[self.code])

    @property
    def instance_id(self) -> str:
        """The id of the workflow that answers."""
        return f"chat-{self.code}"


class ChatMessage(models.Model):
    """One thing said; question and answer have the same number."""

    class Author(models.TextChoices):
        """Who said it."""

        CUSTOMER = "customer", "You"
        SHOP = "shop", "Lantern & Leaf"

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    seq = models.PositiveIntegerField()
    author = models.CharField(max_length=10, choices=Author.choices)
    text = models.CharField(max_length=1000)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["conversation", "seq", "author"], name="shop_chatmessage_once")]

    def __str__(self) -> str:
        return f"{self.seq} {self.author}: {self.text}"

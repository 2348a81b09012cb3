"""The chat: messages go into a workflow's mailbox, its answers come back on the page."""

from __future__ import annotations

import json

from django.contrib import messages as flash
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from duroxide_django import Client, InstanceNotFound
from example_project.shop.forms import MessageForm
from example_project.shop.models import ChatMessage, Conversation
from example_project.shop.workflows import INBOX

#: What the page shows of a long conversation.
MESSAGES_SHOWN = 100


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def begin(request: HttpRequest) -> HttpResponse:
    """Show an empty chat; its first message begins a conversation."""
    form = MessageForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            conversation = Conversation.objects.create()
            Client().start_orchestration(conversation.instance_id, "ChatBot", conversation.code)
            _say(conversation, form.cleaned_data["text"])
        return redirect(conversation)
    return render(request, "shop/chat.html", {"form": form})


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def conversation(request: HttpRequest, code: str) -> HttpResponse:
    """Show a conversation, or say something in it."""
    found = get_object_or_404(Conversation, code=code)
    form = MessageForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            # Locked, so that two messages sent at once get different numbers.
            heard = _say(Conversation.objects.select_for_update().get(pk=found.pk), form.cleaned_data["text"])
        if not heard:
            flash.warning(request, "This conversation is over; begin a new one.")
        return redirect(found)
    return render(request, "shop/chat.html", {"form": form, "conversation": found, **_state(found)})


@require_safe
@never_cache
def messages(request: HttpRequest, code: str) -> HttpResponse:
    """Return what has been said, for the script that keeps the page up to date."""
    state = _state(get_object_or_404(Conversation, code=code))
    html = render_to_string("shop/_messages.html", state, request)
    return JsonResponse({"version": state["version"], "finished": state["over"], "headline": "", "html": html})


def _say(conversation: Conversation, text: str) -> bool:
    """Keep a message and put it into the mailbox; False, keeping nothing, if nobody reads that any more."""
    last = conversation.messages.order_by("-seq").first()
    seq = last.seq + 1 if last is not None else 1
    try:
        heard = Client().enqueue_event(conversation.instance_id, INBOX, json.dumps({"seq": seq, "text": text}))
    except InstanceNotFound:  # Ended long ago, and deleted since.
        return False
    if not heard:
        return False
    conversation.messages.create(seq=seq, author=ChatMessage.Author.CUSTOMER, text=text)
    return True


def _state(conversation: Conversation) -> dict[str, object]:
    over = Client().get_status(conversation.instance_id).status in ("Completed", "Failed", "NotFound")
    latest = list(conversation.messages.order_by("-seq", "-author")[:MESSAGES_SHOWN])
    # By number, the question before its answer, however early the answer came.
    said = sorted(latest, key=lambda message: (message.seq, message.author == ChatMessage.Author.SHOP))
    waiting = bool(said) and said[-1].author == ChatMessage.Author.CUSTOMER and not over
    version = f"{said[-1].pk if said else 0}-{len(said)}-{over}"
    return {"said": said, "over": over, "waiting": waiting, "version": version}

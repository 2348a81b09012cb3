import json

from example_project.shop.models import Conversation
from tests.example.cases import ShopTestCase


class TestChat(ShopTestCase):
    def begin(self, text):
        self.client.post("/chat/", {"text": text})
        return Conversation.objects.latest("pk")

    def say(self, conversation, text):
        return self.client.post(conversation.get_absolute_url(), {"text": text}, follow=True)

    def said(self, conversation):
        return [(message.seq, message.author, message.text) for message in conversation.messages.all()]

    def test_answers_and_says_so_in_the_custom_status(self):
        conversation = self.begin("Have you got a teapot?")

        self.work()

        status = self.workflows.get_status(conversation.instance_id)
        reply = json.loads(status.custom_status)
        assert (status.status, reply["state"], reply["seq"]) == ("Running", "replied", 1)
        assert "Cast-iron teapot: 79.00 €, 8 left." in reply["response"]
        assert self.said(conversation)[-1] == (1, "shop", reply["response"])

    def test_answers_messages_in_the_order_they_were_sent(self):
        conversation = self.begin("hello")
        for text in ("one", "two", "three"):
            self.say(conversation, text)

        self.work()

        answered = [seq for seq, author, _text in self.said(conversation) if author == "shop"]
        assert answered == [1, 2, 3, 4]

    def test_keeps_no_history_from_one_message_to_the_next(self):
        conversation = self.begin("hello")
        for text in ("one", "two", "three"):
            self.say(conversation, text)
            self.work()

        executions = self.workflows.list_executions(conversation.instance_id)

        assert executions == [1, 2, 3, 4, 5]

    def test_knows_orders_by_their_code(self):
        order = self.place_order()
        self.work_to_the_end()

        conversation = self.begin(f"Where is {order.code.lower()}?")
        self.work()

        assert self.said(conversation)[-1][2] == f"Order {order.code} of 15.80 €: shipped."

    def test_ends_with_bye(self):
        conversation = self.begin("hello")
        self.say(conversation, "Bye!")

        self.work()

        result = self.workflows.get_status(conversation.instance_id)
        assert (result.status, result.output) == ("Completed", "Done after 2 msgs")

    def test_that_is_over_takes_no_more_messages(self):
        conversation = self.begin("bye")
        self.work()

        response = self.say(conversation, "one more thing")

        assert "This conversation is over" in response.content.decode()
        assert len(self.said(conversation)) == 2

    def test_that_was_deleted_is_over(self):
        conversation = self.begin("Bye!")
        self.work()
        self.workflows.delete_instance(conversation.instance_id)

        page = self.say(conversation, "Are you there?").content.decode()

        assert "This conversation is over" in page
        assert len(self.said(conversation)) == 2

    def test_page_shows_the_answer_below_its_question(self):
        conversation = self.begin("first")
        self.say(conversation, "second")
        waiting = self.client.get(f"{conversation.get_absolute_url()}messages.json").json()
        self.work()

        state = self.client.get(f"{conversation.get_absolute_url()}messages.json").json()

        positions = [state["html"].index(text) for text in ("first", "Ask me about", "second")]
        assert positions == sorted(positions)
        assert state["version"] != waiting["version"]
        assert not state["finished"]

    def test_escapes_what_customers_write(self):
        conversation = self.begin("<script>alert(1)</script>")

        page = self.client.get(conversation.get_absolute_url()).content.decode()

        assert "&lt;script&gt;alert(1)" in page

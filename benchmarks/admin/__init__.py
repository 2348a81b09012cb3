"""The admin at size: a database of a million instances, and its pages as a staff user asks for them."""

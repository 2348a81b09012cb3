"""The shop's pages: for customers (orders, chat) and for the people at the desk."""

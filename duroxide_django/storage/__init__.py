"""The only writer of the tables; knows each database."""

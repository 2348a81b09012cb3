"""The shop: what it sells, its orders, and the workflows that carry them out."""

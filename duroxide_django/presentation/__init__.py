"""What people see of an instance, as plain data: no HTML, no SQL."""

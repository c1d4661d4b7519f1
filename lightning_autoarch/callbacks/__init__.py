"""The Lightning shell: callbacks that hold state and translate hooks."""

"""Assembly: creates the parts that the settings describe. app.py connects, starts and stops them."""

"""The demo: pictures under free licences, and the run that shows the whole system with them."""

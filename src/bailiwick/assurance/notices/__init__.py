"""Messages to people: channels, the routes to them, delivery with receipts."""

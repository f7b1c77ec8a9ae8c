"""Reports: one model of a document, written as Markdown, HTML or PDF, with charts drawn by ourselves."""

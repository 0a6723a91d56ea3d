"""The web page of a lab's experiments: proposed, planned, running, judged, discussed."""

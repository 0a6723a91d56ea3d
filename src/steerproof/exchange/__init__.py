"""In and out: directions and adapters in the formats of the field."""

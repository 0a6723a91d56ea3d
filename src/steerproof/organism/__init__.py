"""The small model that ships with steerproof: its weights; `tools/organism` builds it."""

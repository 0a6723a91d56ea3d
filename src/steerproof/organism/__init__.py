"""The small model that ships with steerproof: corpus, build command, weights."""

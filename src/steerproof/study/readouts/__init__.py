"""What is read off a completion or off log-probabilities: one file a readout.

A readout of texts is made from the experiment and marks one completion at a time; it imports no
torch, so a verdict is recomputed from saved texts. A readout of log-probabilities asks the model
(`engine.score`) and so needs torch; it is imported by who measures and by nobody else.

To add one: a file here, with `readout` as in `marker`, and its line in `texts`.
"""

"""Judges of several kinds behind one protocol, `lab.feedback.judging.Judge`."""

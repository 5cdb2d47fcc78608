"""The label store: preference data as a first-class thing. `lab.feedback.labels.store` says how it is used."""

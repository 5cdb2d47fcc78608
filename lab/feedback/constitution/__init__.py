"""A constitution: principles in words, critics that apply them, chains of revisions, and labels made by them.

principles   the words, with their places and their identity
critics      who says what is wrong with an answer, and says it better
chain        draft → critique → revision, up to four times, kept as records
labels       which of two answers is better, principle by principle

Source: Bai et al. 2022, "Constitutional AI: Harmlessness from AI Feedback"; Lee et al. 2023, "RLAIF".
"""

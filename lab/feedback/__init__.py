"""Where a judgement comes from."""

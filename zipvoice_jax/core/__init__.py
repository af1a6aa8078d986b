"""Small parts that every layer may use: errors, random keys, masks, schedules."""

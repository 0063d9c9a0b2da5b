"""The machine: its cores, memory, driver, clocks, heat and power."""

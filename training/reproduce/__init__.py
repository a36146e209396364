"""The paper's tables and figures, from public data to a table with the paper's numbers beside."""

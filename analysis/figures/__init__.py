"""Figures and tables, one module each. Each module writes a PDF, a PNG, and a CSV of the numbers drawn."""

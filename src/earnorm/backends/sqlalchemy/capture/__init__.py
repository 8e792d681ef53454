"""Capture: triggers on models' tables, and what they saw turned into events, whoever wrote the rows."""

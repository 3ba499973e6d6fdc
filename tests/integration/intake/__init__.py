"""Tests of intake as a process against real servers."""

"""Tests: unit (no server), integration (one piece, a real server), acceptance (the whole service over HTTP), bench."""

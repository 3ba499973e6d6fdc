"""A small model of the protocol of jobs and deliveries: searched exhaustively, and compared with the real scripts."""

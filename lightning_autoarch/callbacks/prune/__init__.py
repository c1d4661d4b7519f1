"""What happens to a module's weights while it trains: penalties, and what teaches it as it becomes smaller."""

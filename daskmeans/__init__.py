"""daskmeans: k-means for data that does not fit in memory."""

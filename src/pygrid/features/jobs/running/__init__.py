"""Jobs from their approval to their result: the queue, the Workers, and the rows and files of each step."""

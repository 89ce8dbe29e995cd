-- Where a list of abusers is kept, as those who keep one do.
Component "lists.open.example" "pubsub"

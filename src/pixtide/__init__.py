"""Pictures from Kafka, made searchable by words. A service needs `pixtide.client` alone."""

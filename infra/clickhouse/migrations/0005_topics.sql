-- Which topics the rows of sessions, contacts, links and owners are from: their versions are offsets, which mean nothing in another topic.

CREATE TABLE IF NOT EXISTS recorded_topics
(
    `topic` String COMMENT 'Name of the derived topic, as in topics/',
    `topic_id` String COMMENT 'Kafka''s id of it; one that is made anew has another',
    `recorded_at` DateTime('UTC') DEFAULT now() COMMENT 'When record first read it'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, topic_id)
COMMENT 'Derived topics that rows are from';

"""A principal for each process on the secured Kafka, with the grants that the docs list."""

import uuid
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pixtide.streams.kafka.acls import Grant, grants
from pixtide.streams.kafka.connection import KafkaConnection, Sasl, Tls, Tokens
from tests.servers import KafkaServer

_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "Delete": AclOperation.DELETE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


class Principals:
    """Users named after their process and the namespace; `stranger` has no grant at all."""

    def __init__(self, kafka: KafkaServer, namespace: str) -> None:
        self._secured = kafka.secured
        self._namespace = namespace
        self._password = uuid.uuid4().hex
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        given = grants(lambda name: f"{namespace}.{name}")
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        users: list[Any] = [
            UserScramCredentialUpsertion(self.user(process), scram, self._password.encode())
            for process in (*given, "stranger")
        ]
        for user in admin.alter_user_scram_credentials(users).values():
            user.result(30)
        bindings = [
            _binding(self.user(process), operation, grant)
            for process, all_of in given.items()
            for grant in all_of
            for operation in grant.operations
        ]
        for binding in admin.create_acls(bindings).values():
            binding.result(30)

    def user(self, process: str) -> str:
        """The user that a process is."""
        return f"{process}-{self._namespace}"

    def connection(self, process: str, *, password: str | None = None) -> KafkaConnection:
        """How that process reaches Kafka."""
        return KafkaConnection(
            self._secured.bootstrap,
            Tls(self._secured.authority),
            Sasl(self.user(process), password or self._password),
        )

    def by_token(self, process: str, tokens: Tokens, secret: str) -> KafkaConnection:
        """The same, by OAuth tokens whose subject is that user."""
        sasl = Sasl(self.user(process), secret, "OAUTHBEARER", tokens)
        return KafkaConnection(self._secured.bootstrap, Tls(self._secured.authority), sasl)

    def environment(self, process: str) -> dict[str, str]:
        """The same, as settings."""
        return {
            "PIXTIDE_KAFKA": self._secured.bootstrap,
            "PIXTIDE_KAFKA_SECURITY": "sasl_ssl",
            "PIXTIDE_KAFKA_CA_FILE": str(self._secured.authority),
            "PIXTIDE_KAFKA_USERNAME": self.user(process),
            "PIXTIDE_KAFKA_PASSWORD": self._password,
        }


def _binding(user: str, operation: str, grant: Grant) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC if grant.resource == "topic" else ResourceType.GROUP,
        grant.name,
        ResourcePatternType.PREFIXED if grant.prefixed else ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        _OPERATIONS[operation],
        AclPermissionType.ALLOW,
    )

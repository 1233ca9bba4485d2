"""The command: real processes, real sockets, real signals."""

from tests.serving.conftest import Server
from tests.toy import RECORD, toy_answer


def test_the_command_answers(server: Server) -> None:
    reply = server.ask([RECORD])
    assert reply.status == 200
    assert reply.json["predictions"][0]["probability"] == toy_answer(**RECORD)

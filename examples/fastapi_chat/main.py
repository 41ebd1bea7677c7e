"""``origin.py`` with true figures: ``diff origin.py main.py`` shows what it takes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, WebSocket
from sqlmodel import Field, Session, SQLModel, create_engine, select
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from exporter import LockedLive, Source

DATABASE = os.environ.get("CHAT_DATABASE", "sqlite:///chat.db")
MAPPING = os.path.join(os.path.dirname(__file__), "mapping.yml")


def utcnow() -> datetime:
    return datetime.now(UTC)


class User(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    role: str = "user"
    created_at: datetime = Field(default_factory=utcnow)


class Conversation(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    created_at: datetime = Field(default_factory=utcnow)
    total_messages: int = 0


class ConversationParticipant(SQLModel, table=True):
    __tablename__ = "conversation_participant"
    conversation_id: int = Field(primary_key=True, foreign_key="conversation.id")
    user_id: int = Field(primary_key=True, foreign_key="user.id")


class Message(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    conversation_id: int = Field(foreign_key="conversation.id", index=True)
    sender_id: int = Field(foreign_key="user.id")
    content: str
    created_at: datetime = Field(default_factory=utcnow, index=True)
    deleted_at: datetime | None = None


engine = create_engine(DATABASE)


class ConnectionManager:
    def __init__(self) -> None:
        self.active_connections: dict[str, WebSocket] = {}
        self.conversation_participants: dict[int, set[str]] = {}
        self.live = LockedLive(totals=Source(DATABASE, MAPPING))  # FastAPI calls a plain def in a thread

    async def connect(self, user: str, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active_connections[user] = websocket
        self.live.open(user, handle=websocket)

    def disconnect(self, user: str, websocket: WebSocket) -> None:
        self.active_connections.pop(user, None)
        self.live.close(websocket)
        for participants in self.conversation_participants.values():
            participants.discard(user)

    def join(self, user: str, websocket: WebSocket, conversation: int) -> None:
        self.conversation_participants.setdefault(conversation, set()).add(user)
        self.live.join(websocket, str(conversation))

    def typing(self, user: str, websocket: WebSocket, conversation: int) -> None:
        self.live.typing(websocket, str(conversation))

    async def send(self, user: str, websocket: WebSocket, conversation: int, content: str) -> None:
        with Session(engine) as session:
            sender = session.exec(select(User).where(User.name == user)).one()
            session.add(Message(conversation_id=conversation, sender_id=sender.id, content=content))
            session.commit()
        self.live.message(websocket, str(conversation))
        for participant in self.conversation_participants.get(conversation, set()) - {user}:
            if participant in self.active_connections:
                await self.active_connections[participant].send_json({"from": user, "content": content})

    def get_stats(self) -> dict[str, Any]:
        return self.live.get_stats()


manager = ConnectionManager()
app = FastAPI()
SQLModel.metadata.create_all(engine)


def current_user(connection: HTTPConnection) -> User:
    """Whose token this is; here a token is a name, which no real server would believe."""
    token = connection.headers.get("authorization", "").removeprefix("Bearer ")
    with Session(engine) as session:
        user = session.exec(select(User).where(User.name == token)).first()
    if user is None:
        raise HTTPException(401, "Not authenticated")
    return user


def is_admin(connection: HTTPConnection) -> bool:
    return current_user(connection).role == "admin"


app.mount("/messaging", manager.live.asgi(admin=lambda scope: is_admin(HTTPConnection(scope))))


@app.get("/v1/messaging/stats")
def stats(connection: HTTPConnection) -> dict[str, Any]:
    if not is_admin(connection):
        raise HTTPException(403, "Admin access required")
    return manager.get_stats()


@app.websocket("/v1/messaging/ws")
async def messaging(websocket: WebSocket, user: Annotated[User, Depends(current_user)]) -> None:
    await manager.connect(user.name, websocket)
    try:
        while True:
            frame = await websocket.receive_json()
            match frame["type"]:
                case "join":
                    manager.join(user.name, websocket, frame["conversation"])
                case "typing":
                    manager.typing(user.name, websocket, frame["conversation"])
                case "send":
                    await manager.send(user.name, websocket, frame["conversation"], frame["content"])
            await websocket.send_json({"done": frame["type"]})
    except WebSocketDisconnect:
        pass
    finally:
        manager.disconnect(user.name, websocket)

"""A question service: requests that arrive together share forward passes, and the event loop is never blocked.

uvicorn fastapi_app:app
curl -X POST localhost:8000/ask -H "Content-Type: application/json" -d '{"question": "泡绿茶水温多少？"}'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

from langchain_zh_retrieval import ModelScopeEmbeddings

embeddings = ModelScopeEmbeddings("e5-small-zh")  # or "bge-base-zh", ...; weights load at startup, below
store = InMemoryVectorStore(embeddings)
model = FakeListChatModel(responses=["（这里是你的模型的回答）"])  # or ChatTongyi, ChatOpenAI, ...
prompt = ChatPromptTemplate.from_template("根据资料回答问题。\n\n资料：\n{sources}\n\n问题：{question}")
retriever = store.as_retriever(search_kwargs={"k": 2}) | (lambda found: [document.page_content for document in found])
chain = RunnableParallel(question=RunnablePassthrough(), sources=retriever).assign(
    answer=prompt | model | StrOutputParser()
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Load the model and index before the first request, and give the weights back after the last."""
    await store.aadd_texts(["绿茶用八十度的水冲泡。", "红茶要用沸水。", "猫一天睡十几个小时。"])
    yield
    embeddings.unload()


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    """What is asked."""

    question: str


class Answer(BaseModel):
    """The model's answer and the passages that it saw."""

    question: str
    sources: list[str]
    answer: str


@app.post("/ask")
async def ask(question: Question) -> Answer:
    """Answer one question."""
    return Answer.model_validate(await chain.ainvoke(question.question))

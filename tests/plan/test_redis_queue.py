"""The plan's own tests, sections 5.1 and 5.2, letter for letter: only the imports are ours."""

# Quoted text keeps its form; conftest.py puts `config` and GitBridge's other names into this module.
# ruff: noqa: D103, F821, I002, W293
# fmt: off

import pytest

from streams_queue import RedisEventQueue
from tests.plan.gitbridge import TaskChain, TaskState, create_test_payload, generate_task_id


@pytest.mark.asyncio
async def test_redis_enqueue():
    queue = RedisEventQueue(config)
    payload = {"event_type": "push", "repo": "test/repo"}
    
    success = await queue.enqueue(payload)
    assert success
    assert await queue.get_queue_depth() == 1

@pytest.mark.asyncio
async def test_redis_dequeue():
    queue = RedisEventQueue(config)
    payload = {"event_type": "push", "repo": "test/repo"}
    
    await queue.enqueue(payload)
    result = await queue.dequeue()
    
    assert result == payload
    assert await queue.get_queue_depth() == 0


@pytest.mark.integration
async def test_redis_queue_flow():
    queue = RedisEventQueue(config)
    task_chain = TaskChain(consensus_manager, mas_logger, config)
    
    # Test end-to-end flow
    payload = create_test_payload()
    await queue.enqueue(payload)
    
    result = await queue.dequeue()
    task = await task_chain.create_task(
        task_id=generate_task_id(),
        agent=result["user"]
    )
    
    assert task.state == TaskState.CREATED

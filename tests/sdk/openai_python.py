"""OpenAI's SDK for Python against an endpoint: BASE_URL MODEL [CASE...]. A line for each case; the first failure ends it."""

import os
import sys

import openai

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"


def chat(client, model):
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=5
    )
    assert answer.model == model, answer
    assert answer.choices[0].message.content, answer
    assert answer.usage.completion_tokens == 5, answer
    return answer.usage.completion_tokens


def stream(client, model):
    events = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=7,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = [], None
    for event in events:
        assert event.model == model, event
        text += [choice.delta.content for choice in event.choices if choice.delta.content]
        usage = event.usage or usage
    assert text and usage.completion_tokens == 7, (text, usage)
    return usage.completion_tokens


def cancel(client, model):
    events = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1500, stream=True
    )
    next(iter(events))
    events.close()
    return "closed after one event"


def completion(client, model):
    answer = client.completions.create(model=model, prompt="Hello", max_tokens=3)
    assert answer.model == model and answer.choices[0].text, answer
    return answer.usage.completion_tokens


def responses(client, model):
    answer = client.responses.create(model=model, input="Hello", max_output_tokens=16)
    assert answer.model == model and answer.usage.output_tokens > 0, answer
    return answer.usage.output_tokens


def responses_stream(client, model):
    kinds = []
    final = None
    for event in client.responses.create(model=model, input="Hello", max_output_tokens=16, stream=True):
        kinds.append(event.type)
        final = getattr(event, "response", None) or final
    assert kinds[0] == "response.created", kinds
    assert "response.output_text.delta" in kinds, kinds
    assert final.model == model and final.usage.output_tokens > 0, final
    return len(kinds)


def embeddings(client, model):
    answer = client.embeddings.create(model=model, input=["Hello", "water"])
    assert answer.model == model and len(answer.data) == 2, answer
    assert len(answer.data[0].embedding) > 0 and answer.usage.prompt_tokens > 0, answer
    return len(answer.data[0].embedding)


def transcription(client, model):
    answer = client.audio.transcriptions.create(model=model, file=("speech.wav", WAV * 4000))
    assert answer.text, answer
    return answer.text


def models(client, model):
    ids = [entry.id for entry in client.models.list()]
    assert model in ids, ids
    assert client.models.retrieve(model).id == model
    return len(ids)


def unknown_model(client, model):
    try:
        client.chat.completions.create(model="nonexistent", messages=[{"role": "user", "content": "Hello"}])
    except openai.NotFoundError as error:
        assert error.code == "model_not_found" and error.param == "model", error
        return error.code
    raise AssertionError("an unknown model was answered")


def door(client, model):
    """With API keys: KEY may use one of two models, once."""

    def failure(key, model, kind):
        try:
            chat(client.with_options(api_key=key), model)
        except kind as error:
            return error
        raise AssertionError(f"{model} was answered")

    key, other_model = os.environ["KEY"], os.environ["OTHER_MODEL"]
    unknown = failure("k-unknown", model, openai.AuthenticationError)
    assert unknown.status_code == 401 and unknown.code == "invalid_api_key", unknown
    denied = failure(key, other_model, openai.PermissionDeniedError)
    assert denied.status_code == 403 and denied.code == "permission_denied", denied
    assert [entry.id for entry in client.with_options(api_key=key).models.list()] == [model]
    chat(client.with_options(api_key=key), model)
    limited = failure(key, model, openai.RateLimitError)
    assert limited.status_code == 429 and limited.code == "quota_exceeded", limited
    assert int(limited.response.headers["retry-after"]) > 0, limited.response.headers
    return ", ".join(error.code for error in (unknown, denied, limited))


# Run only if they are named.
OF_OTHER_SETUPS = [door]
CASES = [
    chat,
    stream,
    cancel,
    completion,
    responses,
    responses_stream,
    embeddings,
    transcription,
    models,
    unknown_model,
]


def main():
    base_url, model, *wanted = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=60)
    for case in CASES + OF_OTHER_SETUPS:
        if case.__name__ in wanted or (not wanted and case in CASES):
            print(f"openai-python {openai.__version__} {case.__name__}: {case(client, model)}", flush=True)


main()

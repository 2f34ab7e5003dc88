"""What runs a model and draws its samples: transformers in this process, vLLM, or a server that speaks OpenAI's API?"""

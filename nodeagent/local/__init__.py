"""The agent's own UNIX socket, over which programs of the same host ask it. Each side knows whom it
speaks to.

A UNIX socket in a directory that only root can write to (``trust``), so that nobody else can pose
as the agent, as whoever takes a free TCP port can. The kernel says who asks (``peer``): no question
is believed about its asker.

Protocol: a connection is one question, one line of JSON (``questions``), and one answer, JSON up to
the end of the stream. A question that waits is answered once, when it is so or its time is over;
closing the connection withdraws it. It is not HTTP: that server (``admin``) has no bound in time on
a question's head and does not know its peer.

Nouns: ``LocalServer`` (server), ``LocalAgent`` (client: blocking, for the command line),
``AgentQuestion`` (questions: as bytes and back, pure), ``Peer`` (peer: who asks, as the kernel
says), ``Shares`` (shares: a bound with a share for each user, pure).
Imported by ``cli``, ``enrolment``, ``main``.
"""

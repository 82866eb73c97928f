"""Pages and images of the Human Protein Atlas, made in the form of its schema (version 3, release 25)."""

import io
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

LICENCE_PAGE = """<!doctype html><html><head><title>Licence</title></head><body>
<p>The Human Protein Atlas is licensed under the <a href="https://creativecommons.org/">Creative Commons
Attribution-ShareAlike 4.0&nbsp;International License</a> for all copyrightable parts.</p></body></html>"""


def jpeg(colour=(120, 70, 40), edge=48):
    """The bytes of a JPEG of one colour, or of noise."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (edge, edge, 3))
    pixels = pixels if colour is None else np.full((edge, edge, 3), colour)
    Image.fromarray(pixels.astype(np.uint8)).save(out, "jpeg")
    return out.getvalue()


def patient(number, url, level="Medium"):
    return f"""<patient><sex>Female</sex><age>40</age><patientId>{escape(str(number))}</patientId>
      <level type="staining">{level}</level><quantity>&gt;75%</quantity><location>nuclear</location>
      <sample><snomedParameters><snomed tissueDescription="Normal tissue, NOS" snomedCode="M-00100"/>
      </snomedParameters><assayImage><image imageType="sampleImage"><imageUrl>{escape(url)}</imageUrl>
      <imageUrlTif>{escape(url.replace("jpg", "tif"))}</imageUrlTif></image></assayImage></sample>
      </patient>"""


def tissue(name, *patients):
    return f"""<data><tissue organ="An organ" ontologyTerms="UBERON:0000000">{escape(name)}</tissue>
      <tissueCell><cellType>Cells</cellType><level type="staining">medium</level></tissueCell>
      {"".join(patients)}</data>"""


def antibody(name, *tissues, validation="approved", cancer=()):
    return f"""<antibody id={quoteattr(name)} releaseVersion="7" releaseDate="2010-11-15">
      <antigenSequence source="HPA">MKAVLRST</antigenSequence>
      <tissueExpression source="HPA" technology="IHC" assayType="tissue">
        <verification type="validation" description="-">{validation}</verification>{"".join(tissues)}
      </tissueExpression>
      <tissueExpression source="HPA" technology="IHC" assayType="cancer">{"".join(cancer)}</tissueExpression>
      <cellExpression source="HPA" technology="ICC/IF"><subAssay type="human"><data><cellLine>U2OS</cellLine>
        <assayImage><image imageType="sampleImage"><imageUrl>https://images.proteinatlas.org/cell.jpg</imageUrl>
        </image></assayImage></data></subAssay></cellExpression></antibody>"""


def page(gene, *antibodies, symbol="MYH7", site="https://v25.proteinatlas.org"):
    """The XML of a gene's page, as text."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<proteinAtlas xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" schemaVersion="3.1"
  xsi:schemaLocation="https://v25.proteinatlas.org https://v25.proteinatlas.org/download/proteinatlas.xsd">
  <entry version="25" url="{site}/{gene}"><name>{symbol}</name><synonym>CMD1S</synonym>
    <identifier id="{gene}" db="Ensembl" version="109" assembly="GRCh38.p13" gencodeVersion="43">
      <xref id="P12883" db="Uniprot/SWISSPROT"/></identifier>
    <proteinstructure><structure><chain gene="{symbol}"><antibody name="HPA9" start_position="1"/></chain>
      </structure></proteinstructure>
    <tissueExpression source="HPA" technology="IHC" assayType="tissue"><summary type="tissue">Text.</summary>
      <image imageType="selected"><tissue organ="x">Liver</tissue>
        <imageUrl>https://images.proteinatlas.org/summary_selected.jpg</imageUrl></image></tissueExpression>
    <rnaExpression source="HPA" technology="RNAseq" assayType="tissue"><data><tissue>Liver</tissue>
      <level type="normalizedRNAExpression" unitRNA="nTPM" expRNA="3"/></data></rnaExpression>
    {"".join(antibodies)}
  </entry>
  <copyright>Copyrighted by the Human Protein Atlas</copyright>
</proteinAtlas>"""
